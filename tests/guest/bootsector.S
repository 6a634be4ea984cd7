/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The smallest guest: a boot sector that the firmware starts from its first disk, and that uses the
 * disks through the firmware's own drivers. So the same few bytes work IDE, AHCI, virtio-blk and
 * virtio-scsi disks, without a driver of an operating system.
 *
 * It keeps one number in memory (16 pages of it) and on two disks; before each step it looks
 * whether all hold the same number, so a continuation from RAM, device state and disks that are not of
 * one instant says "@@ error". Otherwise it says "@@ seq N up SECONDS pid 1" a few times a second.
 *
 * Real mode; firmware calls: int 13h AH=42h/43h (extended read and write). Output: COM1.
 * Layout of disk 0: this program in sectors 0 to 2; both disks: the number in sector 64 + N % 1024.
 */
	.code16
	.intel_syntax noprefix
	.set BUF, 0x9000
	.set TABLE, 0x2000 /* segment: 64 KiB, one number per page */

	.globl start
start:
	ljmp 0, offset begin
begin:
	cli
	xor ax, ax
	mov ds, ax
	mov es, ax
	mov ss, ax
	mov sp, 0x7c00
	sti
	cld
	mov ah, 1 /* the firmware's clock counts from now */
	xor cx, cx
	xor dx, dx
	int 0x1a
	mov byte ptr drive, 0x80
	mov word ptr dap + 2, 2
	mov word ptr dap + 4, 0x7e00
	mov dword ptr dap + 8, 1
	mov ah, 0x42
	call disk
	mov word ptr dap + 2, 1
	mov word ptr dap + 4, BUF
	jmp main

/* int 13h, function in ah, by dap and drive; says so and stops when the disk fails */
disk:
	mov dl, drive
	mov si, offset dap
	int 0x13
	jnc 1f
	mov si, offset disk_failed
	jmp die
1:	ret

die:	/* says si, then stands still */
	call print
1:	hlt
	jmp 1b

print:	/* the text at ds:si, ended by 0 */
	lodsb
	test al, al
	jz 1f
	call putc
	jmp print
1:	ret

putc:	/* al */
	mov ah, al
	mov dx, 0x3fd
1:	in al, dx
	test al, 0x20
	jz 1b
	mov al, ah
	mov dx, 0x3f8
	out dx, al
	ret

number:	/* eax, decimal */
	mov ebx, 10
	xor cx, cx
1:	xor edx, edx
	div ebx
	push dx
	inc cx
	test eax, eax
	jnz 1b
2:	pop ax
	add al, '0'
	call putc
	loop 2b
	ret

drive:	.byte 0
	.align 4
dap:	.byte 16, 0
	.word 1
	.word BUF, 0
	.quad 0
n:	.long 0
said:	.long 0
disk_failed:
	.asciz "@@ error a disk fails\r\n"

	.org 510
	.word 0xaa55

/* --- sectors 1 and 2 --- */
main:
	mov si, offset up
	call print
again:
	call check
	inc dword ptr n
	call keep
	call say
	jmp again

/* the sector of number n, for both disks */
place:
	mov eax, n
	and eax, 1023
	add eax, 64
	mov dword ptr dap + 8, eax
	ret

/* memory and disks hold n (but for the first time) */
check:
	cmp dword ptr n, 0
	je 9f
	mov ax, TABLE
	mov es, ax
	xor di, di
	mov eax, n
1:	mov si, offset memory_differs
	cmp es:[di], eax
	jne die
	add di, 4096
	jnz 1b
	xor ax, ax
	mov es, ax
	call place
	mov byte ptr drive, 0x80
2:	mov ah, 0x42
	call disk
	mov di, BUF
	mov cx, 128
	mov eax, n
	repe scasd
	mov si, offset disk_differs
	jne die
	inc byte ptr drive
	cmp byte ptr drive, 0x82
	jne 2b
9:	ret

/* n to memory and disks */
keep:
	mov ax, TABLE
	mov es, ax
	xor di, di
	mov eax, n
1:	mov es:[di], eax
	add di, 4096
	jnz 1b
	xor ax, ax
	mov es, ax
	call place
	mov byte ptr drive, 0x80
2:	mov di, BUF
	mov cx, 128
	mov eax, n
	rep stosd
	mov ax, 0x4300
	call disk
	inc byte ptr drive
	cmp byte ptr drive, 0x82
	jne 2b
	ret

/* at most every fourth tick of the firmware's clock (18.2 a second) */
say:
	mov eax, ds:[0x46c]
	mov ebx, eax
	sub ebx, said
	cmp ebx, 4
	jb 9f
	mov said, eax
	mov si, offset seq
	call print
	mov eax, n
	call number
	mov si, offset uptime
	call print
	mov eax, ds:[0x46c]
	mov ebx, 18
	xor edx, edx
	div ebx
	call number
	mov si, offset pid
	call print
9:	ret

up:	.asciz "@@ up boot sector\r\n"
seq:	.asciz "@@ seq "
uptime:	.asciz " up "
pid:	.asciz " pid 1\r\n"
memory_differs:
	.asciz "@@ error memory is not of this instant\r\n"
disk_differs:
	.asciz "@@ error a disk is not of this instant\r\n"
	.org 1536
