"""Our simulator against others."""
