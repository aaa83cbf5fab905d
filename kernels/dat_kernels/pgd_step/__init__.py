"""One step of projected gradient descent on the input, and its random start; see README.md."""
