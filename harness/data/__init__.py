"""The library of data sets: find, download, cache, and generate synthetic fallbacks.

For authors of data sets: `cache.cached` (arrays that are slow to compute), `download.fetch_all` (resumable and
verified), `hashes` (fingerprints of files), `synthetic.make_once` (generated data). `library.Library` loads data for a
run.
"""
