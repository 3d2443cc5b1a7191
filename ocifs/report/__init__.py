"""What commands show: plain values first, then their rendering. Nothing here prints."""
