"""Where points are stored. Doors: `open`, and `sink` and `hour_figures`, which all stores share."""
