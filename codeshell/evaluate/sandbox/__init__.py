"""Where generated code is handled: in processes of their own with limits on time and memory."""
