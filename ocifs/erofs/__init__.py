"""The tree image: a merged tree as EROFS metadata, which the kernel can mount and the reader answers from."""
