"""Storage files: .mcap, .db3 and ROS 1 .bag, read in blocks, broken ones as far as they go."""
