"""How a point becomes processes."""
