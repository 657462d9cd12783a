// Chats and settings, kept in this browser.

const CHATS = "llamacli.chats";
const SETTINGS = "llamacli.settings";

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false; // full, or not allowed: it goes on without
  }
}

export const settings = read(SETTINGS, {});
export const saveSettings = () => write(SETTINGS, settings);

const isChat = (chat) => chat && Array.isArray(chat.messages) && typeof chat.id === "string";
export const chats = [].concat(read(CHATS, [])).filter(isChat);

export function save() {
  return write(CHATS, chats.filter((chat) => chat.messages.length));
}

export function begin() {
  const unused = chats.find((chat) => !chat.messages.length);
  if (unused) return unused;
  const chat = { id: crypto.randomUUID?.() ?? String(Date.now()), system: "", messages: [] };
  chats.unshift(chat);
  return chat;
}

export function remove(chat) {
  chats.splice(chats.indexOf(chat), 1);
  save();
}

export function title(chat) {
  return chat.messages[0]?.content.slice(0, 60) || "New chat";
}
