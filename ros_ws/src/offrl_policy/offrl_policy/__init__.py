"""What runs on the robot: policy file, safety gate, ROS 2 node."""
