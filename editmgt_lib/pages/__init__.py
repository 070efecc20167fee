"""Self-contained pages of HTML with a browser of items, as reports and exports have."""
