"""Models from and for other libraries, each of which is needed only where its own code says so."""
