"""The TOC at the end of some layers: eStargz, and both dialects of zstd:chunked.

The blob of such a layer consists of many gzip members or zstd frames, so that each chunk of a file begins with one. The
TOC, a JSON document, describes each file and locates its chunks. `toc_location` finds the TOC, `document` parses it,
and `table` converts it to the content of a LayerIndex. This package does not fetch bytes, and does not decide whether
to trust them.

Formats: containerd/stargz-snapshotter, docs/estargz.md; containers/storage, `pkg/chunked`.
"""
