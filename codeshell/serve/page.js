// The page: code that is completed at the cursor, and a chat. What the model writes becomes text nodes and nothing else.
"use strict";

const $ = (id) => document.getElementById(id);
const show = (element, on) => { element.hidden = !on; };

const state = {
  props: null,     // of the server
  key: "",
  abort: null,     // of the request that runs
  suggestion: "",  // not accepted yet
  at: 0,           // where it goes
  messages: [],
};

// ---- Asking

function headers(extra) {
  return state.key ? { ...extra, authorization: `Bearer ${state.key}` } : extra;
}

function complain(text) {
  $("notice").textContent = text;
  show($("notice"), Boolean(text));
}

async function errorOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

// Events of a request, as objects; stops at the end, or with [DONE].
async function* events(path, body) {
  const { signal } = (state.abort = new AbortController());
  const response = await fetch(path, {
    method: "POST",
    headers: headers({ "content-type": "application/json" }),
    body: JSON.stringify(body),
    signal,
  });
  if (response.status === 401) { show($("ask-key"), true); $("key").focus(); }
  if (!response.ok) throw new Error(await errorOf(response));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      if (part === "data: [DONE]") return;
      // What had come before a stop is not shown after it.
      signal.throwIfAborted();
      const event = JSON.parse(part.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

// Run something that asks; while it does, only its button to stop works.
async function asking(stop, work) {
  if (state.abort) return;
  complain("");
  $("status").textContent = "";
  const buttons = [$("complete"), $("send"), $("clear")];
  buttons.forEach((button) => { button.disabled = true; });
  show(stop, true);
  const began = performance.now();
  try {
    await work(began);
  } catch (error) {
    if (error.name === "AbortError") $("status").textContent = "Stopped.";
    else complain(error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message);
  } finally {
    state.abort = null;
    buttons.forEach((button) => { button.disabled = button === $("send") && !state.props?.chat; });
    show(stop, false);
    document.body.dataset.asking = "no";
  }
}

function number(id, fallback) {
  const value = $(id).valueAsNumber;
  return Number.isFinite(value) ? value : fallback;
}

function settings(names) {
  const asked = { [names.tokens]: number("tokens", 64), temperature: number("temperature", 0), stream: true };
  const stop = $("stop-at").value.replaceAll("\\n", "\n").replaceAll("\\t", "\t");
  if (stop) asked.stop = [stop];
  if ($("seed").value !== "") asked.seed = number("seed", 0);
  return asked;
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

// ---- Code

function draw() {
  const { value } = $("text");
  const before = state.suggestion ? value.slice(0, state.at) : value;
  const parts = [document.createTextNode(before)];
  if (state.suggestion) {
    const added = document.createElement("ins");
    added.textContent = state.suggestion;
    parts.push(added, document.createTextNode(value.slice(state.at)));
  }
  // A last empty line has a height, too.
  parts.push(document.createTextNode("\n"));
  $("shown").replaceChildren(...parts);
  $("text").style.height = "auto";
  $("text").style.height = `${Math.max($("text").scrollHeight, $("shown").offsetHeight)}px`;
}

function hint() {
  const { value, selectionStart } = $("text");
  const after = value.slice(selectionStart).length > 0;
  if (!state.props) return;
  const gaps = state.props.infill ? " Put it inside the text to fill in a gap." : "";
  if (!after) $("hint").textContent = `The cursor is at the end: the text is continued.${gaps}`;
  else if (state.props.infill) $("hint").textContent = "The gap at the cursor is filled in.";
  else $("hint").textContent = "This model only continues: it does not see the text after the cursor.";
}

// The text has another cursor or other words: what is being written for it is of no use.
function interrupt() {
  if (!$("stop-code").hidden) state.abort?.abort();
  discard();
}

function discard() {
  state.suggestion = "";
  ["accept", "discard"].forEach((id) => show($(id), false));
  draw();
}

function accept() {
  if (!state.suggestion) return;
  const text = $("text");
  const end = state.at + state.suggestion.length;
  text.value = text.value.slice(0, state.at) + state.suggestion + text.value.slice(state.at);
  discard();
  text.focus();
  text.setSelectionRange(end, end);
  hint();
}

function complete() {
  return asking($("stop-code"), async (began) => {
    discard();
    const { value, selectionStart } = $("text");
    state.at = selectionStart;
    const [prefix, suffix] = [value.slice(0, state.at), value.slice(state.at)];
    const asked = settings({ tokens: "n_predict" });
    const fills = suffix && state.props?.infill;
    const [path, body] = fills
      ? ["infill", { ...asked, input_prefix: prefix, input_suffix: suffix }]
      : ["completion", { ...asked, prompt: prefix }];
    let first = 0;
    try {
      for await (const event of events(path, body)) {
        first ||= performance.now() - began;
        state.suggestion += event.content;
        draw();
        if (event.stop) report(event, first);
      }
      if (!state.suggestion) $("status").textContent += " The model added nothing.";
    } finally {
      // What was written before a stop can be accepted.
      ["accept", "discard"].forEach((id) => show($(id), Boolean(state.suggestion)));
      $("text").focus();
    }
  });
}

function report(event, first) {
  const { timings } = event;
  const cached = timings.cache_n ? `, ${timings.cache_n.toLocaleString("en")} of them cached` : "";
  $("status").textContent =
    `${plural(event.tokens_evaluated, "token")} of prompt${cached}; first text after ${Math.round(first).toLocaleString("en")} ms; `
    + `${plural(timings.predicted_n, "token")} at ${timings.predicted_per_second.toFixed(1)} per second.`;
}

// ---- Chat

function speech(role, text) {
  const item = document.createElement("li");
  item.className = role;
  item.textContent = text;
  $("talk").append(item);
  return item;
}

function send() {
  const text = $("message").value.trim();
  if (!text || $("send").disabled) return;
  return asking($("stop-chat"), async (began) => {
    const messages = [...state.messages, { role: "user", content: text }];
    const asked = settings({ tokens: "max_tokens" });
    const question = speech("user", text);
    const answer = speech("assistant", "");
    $("message").value = "";
    let [written, first, usage] = ["", 0, null];
    try {
      const body = { ...asked, messages, stream_options: { include_usage: true } };
      for await (const event of events("v1/chat/completions", body)) {
        usage = event.usage ?? usage;
        const more = event.choices[0]?.delta.content ?? "";
        if (more) first ||= performance.now() - began;
        written += more;
        answer.textContent = written;
      }
    } finally {
      // What was written before a stop stays; a question without an answer goes back into its field.
      if (written) {
        state.messages = [...messages, { role: "assistant", content: written }];
      } else {
        question.remove();
        answer.remove();
        $("message").value = text;
      }
    }
    if (usage) {
      const seconds = (performance.now() - began - first) / 1000;
      $("status").textContent =
        `${plural(usage.prompt_tokens, "token")} of prompt; first text after ${Math.round(first).toLocaleString("en")} ms; `
        + `${plural(usage.completion_tokens, "token")} in ${seconds.toFixed(1)} s.`;
    }
    $("message").focus();
  });
}

// ---- The page

function tab(name) {
  for (const other of ["code", "chat"]) {
    $(`tab-${other}`).setAttribute("aria-pressed", String(other === name));
    show($(other), other === name);
  }
  if (name === "code") draw();
}

async function connect() {
  complain("");
  try {
    const response = await fetch("props", { headers: headers({}) });
    if (response.status === 401) {
      show($("ask-key"), true);
      $("facts").textContent = "A key is needed.";
      complain(state.key ? "The key is wrong." : "");
      $("key").select();
      return;
    }
    if (!response.ok) throw new Error(await errorOf(response));
    state.props = await response.json();
  } catch (error) {
    complain(error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message);
    return;
  }
  if (!$("ask-key").hidden) $("text").focus();
  show($("ask-key"), false);
  const { props } = state;
  $("model").textContent = props.model_alias;
  document.title = `${props.model_alias} · codeshell serve`;
  const can = ["continues", props.infill && "fills in", props.chat && "chats"].filter(Boolean);
  $("facts").textContent =
    `${plural(props.default_generation_settings.n_ctx, "token")} of context · ${can.join(", ")} · ${props.build_info}`;
  show($("no-chat"), !props.chat);
  $("send").disabled = !props.chat;
  hint();
  document.body.dataset.ready = "yes";
}

function start() {
  const root = location.origin;
  $("at-root").textContent = root;
  $("at-infill").textContent = `${root}/infill`;
  $("at-openai").textContent = `${root}/v1`;
  const text = $("text");
  text.value = "def average(numbers):\n    \"\"\"The arithmetic mean of a list of numbers.\"\"\"\n    ";
  text.addEventListener("input", () => { interrupt(); hint(); });
  document.addEventListener("selectionchange", () => {
    if (document.activeElement !== text) return;
    if (state.suggestion && !state.abort && text.selectionStart !== state.at) discard();
    hint();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); complete(); }
    else if (event.key === "Tab" && state.suggestion && !state.abort) { event.preventDefault(); accept(); }
    else if (event.key === "Escape") interrupt();
  });
  $("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  $("complete").addEventListener("click", complete);
  $("accept").addEventListener("click", accept);
  $("discard").addEventListener("click", discard);
  $("send").addEventListener("click", send);
  $("clear").addEventListener("click", () => { state.messages = []; $("talk").replaceChildren(); });
  for (const id of ["stop-code", "stop-chat"]) $(id).addEventListener("click", () => state.abort?.abort());
  $("tab-code").addEventListener("click", () => tab("code"));
  $("tab-chat").addEventListener("click", () => tab("chat"));
  $("ask-key").addEventListener("submit", (event) => {
    event.preventDefault();
    state.key = $("key").value;
    connect();
  });
  new ResizeObserver(draw).observe(document.querySelector(".editor"));
  tab("code");
  text.focus();
  text.setSelectionRange(text.value.length, text.value.length);
  connect();
}

start();
