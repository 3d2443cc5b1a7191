"""The TOC that some layers carry at their end: eStargz, and zstd:chunked in both of its dialects.

Their blobs are made of many gzip members or zstd frames, so that each piece of a file begins with one of its own; the
TOC, a JSON document, describes each file and says where its pieces are. `place` knows where the TOC is, `document`
what it says, and `table` makes of that what a LayerIndex holds. It does not know how bytes are fetched, nor whether
they are to be trusted.

Formats: containerd/stargz-snapshotter, docs/estargz.md; containers/storage, `pkg/chunked`.
"""
