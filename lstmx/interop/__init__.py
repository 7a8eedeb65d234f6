"""Models from and for other libraries: a place for importers and exporters."""
