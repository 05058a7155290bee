"""The library of data sets: find, download, cache, and generate synthetic fallbacks.

For authors of data sets: `cache.cached` (what is slow to make), `download.fetch_all` (resumable and verified),
`hashes` (fingerprints of files), `synthetic.make_once` (generated data). `library.Library` loads data for a run.
"""
