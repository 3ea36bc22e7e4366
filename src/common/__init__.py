"""What every stage shares; light to import."""
