"""`PandaReach`: an arm brings its hand to a goal above the table; only the end is rewarded."""
