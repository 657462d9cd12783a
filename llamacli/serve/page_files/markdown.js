// An answer's Markdown as nodes that can't run anything, with buttons that copy code.

const CLEAN = {
  RETURN_DOM_FRAGMENT: true,
  ALLOWED_TAGS: [
    "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "del", "a", "code", "pre",
    "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td", "sub", "sup",
  ],
  ALLOWED_ATTR: ["href", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};

// What looks like HTML in an answer is shown as it was written.
marked.use({ gfm: true, breaks: false, renderer: { html: ({ text }) => escaped(text) } });

function escaped(text) {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

export function render(text) {
  const nodes = DOMPurify.sanitize(marked.parse(text), CLEAN);
  for (const link of nodes.querySelectorAll("a")) {
    link.rel = "noopener noreferrer nofollow";
    link.target = "_blank";
  }
  for (const code of nodes.querySelectorAll("pre")) {
    const box = document.createElement("div");
    const button = document.createElement("button");
    box.className = "code";
    button.type = "button";
    button.textContent = "Copy";
    button.dataset.copies = "";
    code.replaceWith(box);
    box.append(code, button);
  }
  return nodes;
}
