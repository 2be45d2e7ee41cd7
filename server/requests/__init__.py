"""What a client may write, checked: fields, changes, and the catalogue of objectives that both are held against."""
