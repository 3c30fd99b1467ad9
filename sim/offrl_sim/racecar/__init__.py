"""`RacecarTrack`: a small Ackermann car drives round a closed track."""
