"""Super-resolution by a factor of four: what a network adds to the best linear estimate, and how it is trained."""
