"""Container images: what is in them, who signed them, how they are made."""
