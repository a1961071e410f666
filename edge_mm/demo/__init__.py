"""`edge-mm demo`: the shipped model on the shipped pictures, as text, pictures and a web page."""
