"""Take away what a program may not have."""
