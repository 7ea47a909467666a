"""The one program, `ostiary`. Nothing imports this package."""
