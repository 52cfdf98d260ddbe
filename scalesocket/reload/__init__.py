"""Hot reload: watch the site file, read it, plan, prepare what can fail, apply in one step. A failure changes nothing."""
