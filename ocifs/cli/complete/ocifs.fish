# Completion of ocifs for fish 3 or later. `ocifs completion fish` prints this file.

function __ocifs_ask
    set -l words (commandline -opc)
    command -q $words[1]; or return
    set -l token (commandline -ct)
    set -l word (string unescape -- $token; or string unescape -- $token\"; or string unescape -- $token\')
    set -g __ocifs_answer ($words[1] __complete fish $words "$word" 2>/dev/null)
    test "$__ocifs_answer[1]" = words; or return # then fish completes names of files
    set -e __ocifs_answer[1]
end

complete -c ocifs -n __ocifs_ask -f -a '$__ocifs_answer'
