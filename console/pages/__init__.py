"""The pages: each module reads one thing and shows it. Every page works without JavaScript."""
