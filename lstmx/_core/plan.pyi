"""What a program runs; nothing of it is for Python."""
