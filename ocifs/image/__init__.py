"""An image, opened: what it says of itself, and its rootfs, merged and readable without any mount."""
