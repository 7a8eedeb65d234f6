"""Work on blocks of gates, for other compiled modules alone."""
