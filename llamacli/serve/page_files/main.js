// The page: what is shown, and what happens when something is pressed.

import * as api from "./api.js";
import { begin, chats, remove, save, saveSettings, settings, title } from "./chats.js";
import { render } from "./markdown.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
let chat = begin();
let running = null; // the AbortController of the answer that comes

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function button(text, action) {
  const node = make("button", "", text);
  node.type = "button";
  node.addEventListener("click", action);
  return node;
}

function tell(problem) {
  $("problem").textContent = problem ?? "";
  $("problem").hidden = !problem;
}

function showChats() {
  $("chats").replaceChildren(
    ...chats.map((one) => {
      const item = make("li");
      const open = button(title(one), () => open_(one));
      open.setAttribute("aria-current", String(one === chat));
      item.append(open);
      return item;
    }),
  );
}

function open_(one) {
  stop();
  chat = one;
  closeSide();
  tell();
  show();
  $("text").focus();
}

function fill(body, message) {
  if (message.role === "user") body.textContent = message.content;
  else body.replaceChildren(render(message.content));
}

function showMessage(message, index) {
  const item = make("li", message.role);
  const body = make("div", "body");
  fill(body, message);
  const tools = make("div", "tools");
  tools.append(button("Copy", () => navigator.clipboard?.writeText(message.content)));
  if (message.role === "user") tools.append(button("Edit", () => edit(index)));
  else tools.append(button("Regenerate", () => answer(index)));
  if (message.told) tools.append(make("span", "told", message.told));
  item.append(body, tools);
  return item;
}

function show() {
  showChats();
  $("messages").replaceChildren(...chat.messages.map(showMessage));
  toEnd();
}

function toEnd() {
  $("messages").scrollTop = $("messages").scrollHeight;
}

function edit(index) {
  stop();
  $("text").value = chat.messages[index].content;
  chat.messages.length = index;
  save();
  show();
  $("text").focus();
}

function asked() {
  const body = { model: $("model").value || undefined };
  for (const name of NUMBERS) {
    const value = settings[name];
    if (value !== undefined && value !== "") body[name] = Number(value);
  }
  const system = chat.system ? [{ role: "system", content: chat.system }] : [];
  body.messages = [...system, ...chat.messages.map(({ role, content }) => ({ role, content }))];
  return body;
}

// The answer that stands at index, anew; what came after it goes.
async function answer(index) {
  stop();
  const mine = chat;
  mine.messages.length = index;
  const body = asked();
  const message = { role: "assistant", content: "", told: "" };
  mine.messages.push(message);
  show();
  tell();
  const control = (running = new AbortController());
  $("stop").hidden = false;
  const node = () => $("messages").children[index]?.querySelector(".body");
  let waiting = false;
  const draw = () => {
    waiting = false;
    if (chat !== mine || !node()) return;
    const list = $("messages");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    fill(node(), message);
    if (atEnd) toEnd();
  };
  const began = performance.now();
  try {
    await api.stream(body, settings.key, control.signal, (chunk) => {
      message.content += chunk.choices[0]?.delta?.content ?? "";
      if (chunk.choices[0]?.finish_reason === "length") message.told = "cut: the limit was reached";
      if (chunk.usage) {
        const seconds = (performance.now() - began) / 1000;
        const made = `${chunk.usage.completion_tokens} tokens in ${seconds.toFixed(1)} s`;
        message.told = message.told ? `${made}; ${message.told}` : made;
      }
      if (!waiting) {
        waiting = true;
        requestAnimationFrame(draw);
      }
    });
  } catch (error) {
    if (error.name === "AbortError") message.told = "stopped";
    else tell(error.message);
    if (!message.content) mine.messages = mine.messages.filter((one) => one !== message);
  }
  if (running === control) {
    running = null;
    $("stop").hidden = true;
  }
  if (!save()) tell("this browser keeps no chats: its storage is full or switched off");
  if (chat === mine) show();
}

function stop() {
  running?.abort();
}

function send() {
  const content = $("text").value;
  if (!content.trim() || running) return;
  chat.messages.push({ role: "user", content });
  $("text").value = "";
  answer(chat.messages.length);
}

async function listModels() {
  try {
    const found = await api.models(settings.key);
    const chosen = settings.model;
    $("model").replaceChildren(...found.map(({ id }) => new Option(id, id, false, id === chosen)));
    tell(found.length ? "" : "there is no model yet: llamacli convert or pull gets one");
  } catch (error) {
    tell(error.message);
  }
}

function colours() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
}

function closeSide() {
  $("side").classList.remove("open");
  $("menu").setAttribute("aria-expanded", "false");
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !$("text").value && !running) {
    const last = chat.messages.findLastIndex(({ role }) => role === "user");
    if (last >= 0) {
      event.preventDefault();
      edit(last);
    }
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("settings").open) {
    stop();
    closeSide();
  }
  if (event.key.toLowerCase() === "o" && event.ctrlKey && event.shiftKey) {
    event.preventDefault();
    open_(begin());
  }
});
document.addEventListener("click", async (event) => {
  const copy = event.target.closest?.("[data-copies]");
  if (!copy) return;
  await navigator.clipboard?.writeText(copy.parentElement.querySelector("pre").textContent);
  copy.textContent = "Copied";
  setTimeout(() => (copy.textContent = "Copy"), 1500);
});
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", () => open_(begin()));
$("menu").addEventListener("click", () => {
  const open = $("side").classList.toggle("open");
  $("menu").setAttribute("aria-expanded", String(open));
});
$("model").addEventListener("change", () => {
  settings.model = $("model").value;
  saveSettings();
});
$("open-settings").addEventListener("click", () => {
  $("system").value = chat.system ?? "";
  for (const name of [...NUMBERS, "theme", "key"]) $(name).value = settings[name] ?? "";
  $("settings").showModal();
});
$("settings").addEventListener("close", () => {
  if (!chats.includes(chat)) open_(begin()); // it was deleted
  else chat.system = $("system").value;
  for (const name of [...NUMBERS, "theme"]) settings[name] = $(name).value;
  if (settings.key !== $("key").value) {
    settings.key = $("key").value;
    listModels();
  }
  saveSettings();
  save();
  colours();
  $("text").focus();
});
$("delete").addEventListener("click", () => {
  remove(chat);
  $("settings").close();
});

colours();
show();
listModels();
