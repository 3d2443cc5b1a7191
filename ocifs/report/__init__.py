"""What commands show: computed as plain values first, then rendered; no command prints what it computes."""
