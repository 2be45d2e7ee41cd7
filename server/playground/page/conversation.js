// A conversation as a tree: every edit and every new attempt is a branch beside the others. Pure functions of plain data.
//
// A node is `{id, parent, role, content, children, chosen}`; an assistant's has `texts`, one a column, and what it was
// asked with, `request`. The root is node 0, which says nothing.

// crypto.randomUUID is there on https and localhost alone; this is everywhere.
const randomId = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("");

export const newConversation = () => ({
  id: randomId(), started: Date.now(), nodes: [{ id: 0, parent: null, role: "root", children: [], chosen: 0 }],
});

/** Add a branch under a node and choose it. */
export function add(conversation, parent, fields) {
  const node = { id: conversation.nodes.length, parent, children: [], chosen: 0, ...fields };
  conversation.nodes.push(node);
  const above = conversation.nodes[parent];
  above.children.push(node.id);
  above.chosen = above.children.length - 1;
  return node;
}

/** The nodes from the first message to the last along the chosen branches. */
export function path(conversation) {
  const found = [];
  let node = conversation.nodes[0];
  while (node.children.length) {
    node = conversation.nodes[node.children[node.chosen]];
    found.push(node);
  }
  return found;
}

/** A node among its siblings: which it is, and of how many. */
export function place(conversation, node) {
  const siblings = conversation.nodes[node.parent].children;
  return { index: siblings.indexOf(node.id), count: siblings.length };
}

/** Choose another branch at a node; wraps around. */
export function turn(conversation, node, step) {
  const above = conversation.nodes[node.parent];
  above.chosen = (above.chosen + step + above.children.length) % above.children.length;
}

/** The messages before a node, as a request has them. */
export function messagesBefore(conversation, node) {
  const messages = [];
  let at = node.parent;
  while (at) {
    const each = conversation.nodes[at];
    messages.unshift({ role: each.role, content: each.content });
    at = each.parent;
  }
  return messages;
}

export const titleOf = (conversation) => {
  const first = conversation.nodes.find((node) => node.role === "user");
  return first ? first.content.slice(0, 60) : "New conversation";
};
