"""One model for editors, over HTTP: the requests of OpenAI's, llama.cpp's and TGI's clients, and a page to try it.

- `server`     the process: socket, signals, uvicorn
- `app`        which address is answered by what
- `guard`      who may ask: Host, Origin, key, size and pace of a body
- `fields`     the fields of a request, each checked, ignored for a reason, or refused
- `openai`, `llama`, `tgi`, `chat`   what each kind of client sends, and what it reads
- `prompts`    token ids of what was sent; `sentinels` finds the gap in a prompt that is one text
- `worker`     the thread that generates, and its queue
- `answers`    a generation as one object or as a stream of events, and the client that goes away
- `page`       the page at `/`
"""
