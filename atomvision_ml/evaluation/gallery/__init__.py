"""HTML pages with pictures for people. Belongs here: choosing what to show, drawing it, writing the pages."""
