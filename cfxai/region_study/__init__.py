"""What `tools/regions.py` does: measure maps in regions, test, and write a table and a page."""
