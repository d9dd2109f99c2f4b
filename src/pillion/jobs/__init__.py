"""Jobs: schedules, ticks, who fires them."""
