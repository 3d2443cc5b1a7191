# Completion of ocifs for bash 4.4 or later. `ocifs completion bash` prints this file.

_ocifs() {
    local command=$1 answer
    [[ $command == \~/* ]] && command=$HOME/${command:2}
    mapfile -t answer < <("$command" __complete bash "$COMP_WORDBREAKS" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    COMPREPLY=()
    if [[ ${answer[0]-} == words ]]; then # else bash completes names of files
        compopt -o nospace +o default +o bashdefault
        COMPREPLY=("${answer[@]:1}")
    fi
}

complete -o bashdefault -o default -F _ocifs ocifs
