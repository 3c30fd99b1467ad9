"""`DiffDriveNav`: a two-wheeled robot with a lidar drives to a goal among round obstacles."""
