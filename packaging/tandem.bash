# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# bash completion for tandem(1): commands, options and their values as `tandem --help` tells them, configuration files,
# node names out of the configuration file on the command line.

# The words in the first column of a list of --help; $1: its title
_tandem_list() {
  local title=$1
  shift
  "$@" --help 2>/dev/null | sed -n "/^$title:\$/,/^\$/s/^  \([^ ]*\) .*/\1/p"
}

_tandem() {
  local cur prev words cword split=false
  _init_completion -s || return

  local program=${words[0]} command='' conf='' valued i
  [ "$(type -t "$program" 2>/dev/null)" = file ] || program=tandem
  # the command is the first word, the configuration file the first word behind it that is no option nor its value
  [ "$cword" -gt 1 ] && command=${words[1]}
  [ -z "$command" ] || valued=$("$program" "$command" --help 2>/dev/null | sed -n 's/^  \(--[a-z-]*\) [^ ].*/\1/p')
  for ((i = 2; i < ${#words[@]}; i++)); do
    if [[ ${words[i]} == -* ]]; then
      [[ $'\n'$valued$'\n' != *$'\n'${words[i]}$'\n'* ]] || ((i++))
    elif ((i != cword)) && [ -z "$conf" ]; then
      conf=${words[i]}
    fi
  done

  if [ "$cword" -eq 1 ]; then
    local list
    list=$(_tandem_list commands "$program")
    [[ $cur != -* ]] || list=$(_tandem_list options "$program")
    mapfile -t COMPREPLY < <(compgen -W "$list" -- "$cur")
    return
  fi

  # the value of an option: "--wait=received" or "--node alpha"
  if [[ $prev == --?* ]]; then
    local shown values
    shown=$("$program" "$command" --help 2>/dev/null | sed -n "s/^  \($prev[ =[].*\)/\1/p" | sed 's/  .*//')
    case $shown in
    --*'[='*) # a choice, whose value is never a word of its own
      if $split; then
        values=${shown#*=}
        values=${values%]}
        mapfile -t COMPREPLY < <(compgen -W "${values//|/ }" -- "$cur")
        return
      fi
      ;;
    '--node '*)
      if [ -n "$conf" ] && [ -r "${conf/#\~\//$HOME/}" ]; then
        values=$(sed -n 's/^[[:space:]]*\[node[[:space:]]\{1,\}\([A-Za-z0-9._-]*\)\].*/\1/p' "${conf/#\~\//$HOME/}")
        mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur")
      fi
      return
      ;;
    --*' '*) return ;; # a number: nothing to offer
    esac
    ! $split || return
  fi

  if [[ $cur == -* ]]; then
    local options
    options=$(_tandem_list options "$program" "$command" | sed 's/\[=.*/=/')
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    [[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
    return
  fi
  [ -n "$conf" ] || _filedir conf
}

complete -F _tandem tandem
