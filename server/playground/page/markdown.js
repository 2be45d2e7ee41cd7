// Markdown as nodes of the page. What a model writes is never trusted: it is sanitised, and nothing in it is fetched.

import DOMPurify from "./vendor/purify.js";
import { marked } from "./vendor/marked.js";

const OPTIONS = {
  ALLOWED_TAGS: ["p", "br", "em", "strong", "del", "code", "pre", "blockquote", "ul", "ol", "li", "h1", "h2", "h3", "h4",
    "h5", "h6", "hr", "table", "thead", "tbody", "tr", "th", "td", "a"],
  ALLOWED_ATTR: ["href", "start"],
  ALLOWED_URI_REGEXP: /^https?:/i,
  RETURN_DOM_FRAGMENT: true,
};

// HTML in a text is shown as the text that it is, and never parsed.
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
marked.use({ renderer: { html: ({ text }) => escaped(text), image: ({ raw }) => escaped(raw) } });

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

/** A fragment with the text's headings, lists and emphasis; images are shown as what was written for them. */
export const markdown = (text) => DOMPurify.sanitize(marked.parse(text, { async: false, breaks: true }), OPTIONS);
