"""A server with OpenAI's interface, and a chat in the terminal."""
