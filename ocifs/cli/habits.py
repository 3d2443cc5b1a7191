"""Commands that users of podman, skopeo, crane, dive and a shell type from habit, with what to type in ocifs."""

_NO_CONTAINERS = "ocifs keeps no containers: `ocifs run` starts one and removes it; for more use podman"
_NO_IMAGES = "ocifs keeps no images: `ocifs tags IMAGE` lists those of a repository, a layout or an archive"
_NO_PULL = "name docker://HOST/REPOSITORY:TAG in any command: it fetches what it reads"
_NO_WRITING = "ocifs never changes an image: use podman, umoci or skopeo"
_INSPECT = "use `ocifs inspect --json IMAGE`"
_PIPE = "use `ocifs cat IMAGE PATH` and a pipe"

INSTEAD = {
    **dict.fromkeys(
        ["ps", "exec", "start", "stop", "kill", "rm", "logs", "attach", "create", "top", "wait"], _NO_CONTAINERS
    ),
    **dict.fromkeys(["images", "image", "rmi", "list"], _NO_IMAGES),
    **dict.fromkeys(["pull", "fetch"], _NO_PULL),
    **dict.fromkeys(
        ["build", "commit", "tag", "push", "copy", "save", "load", "import", "repack", "append", "login"], _NO_WRITING
    ),
    **dict.fromkeys(["digest", "info", "layers"], _INSPECT),
    **dict.fromkeys(["less", "more", "wc", "sha256sum", "md5sum", "file", "strings", "vi", "view", "sort"], _PIPE),
    "manifest": "use `ocifs inspect --raw IMAGE`",
    "raw": "use `ocifs inspect --raw IMAGE`",
    "config": "use `ocifs inspect --config IMAGE`",
    "list-tags": "use `ocifs tags docker://HOST/REPOSITORY`",
    "unpack": "use `ocifs export IMAGE --to-dir DIR`",
    "extract": "use `ocifs cp IMAGE PATH... DEST`, or `ocifs export IMAGE --to-dir DIR`",
    "blob": "use `ocifs export IMAGE --to-tar FILE`",
    "analyze": "use `ocifs waste IMAGE`",
    "dive": "use `ocifs explore IMAGE`",
    "ui": "use `ocifs explore IMAGE`",
    "validate": "use `ocifs verify IMAGE`",
    "check": "use `ocifs verify IMAGE`",
    "egrep": "use `ocifs grep -E`",
    "fgrep": "use `ocifs grep -F`",
    "shell": "use `ocifs run -it IMAGE sh`",
    "sh": "use `ocifs run -it IMAGE sh`",
    "version": "use `ocifs --version`",
    "prune": "use `ocifs cache prune`",
    "clean": "use `ocifs cache clear`",
    "cd": "add the path to each command, or mount the image",
}
"""What to use, by the name of the command."""
