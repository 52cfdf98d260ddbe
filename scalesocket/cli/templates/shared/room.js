// One room of one app: a websocket that reconnects by itself, and helpers for every page.
//
// A page served at /chat/ joins /chat/ROOM. ROOM is the part after the # of the page's address, else ?room=, else lobby. When the # changes,
// the page moves to that room. A page served at the root joins /ROOM.

const FIRST_DELAY = 500; // ms before the first attempt to reconnect; doubled for each further one
const LAST_DELAY = 15_000;
const STEADY = 5_000; // ms that a connection must last before the delay is reset
const LAST_REFUSAL = 3; // refusals in a row, by a running server, after which the page stops

// Close codes after which reconnecting would fail again (docs/closing.md); 4000 and above are the program's.
const FINAL = new Set([1000, 1002, 1007, 1009]);
const ROOM_NAME = /^(?!\.{1,2}$)[\p{L}\p{N}_.~-]{1,128}$/u; // the default of `room_pattern`

/** The current room of this page (a live binding). */
export let roomName = roomOfAddress();

function roomOfAddress() {
  let hash = location.hash.slice(1);
  try {
    hash = decodeURIComponent(hash);
  } catch {
    // not URL-encoded: use it unchanged; the check of the name follows
  }
  return hash.trim() || new URLSearchParams(location.search).get("room")?.trim() || "lobby";
}

/** A random id of this tab: a page sends it as a parameter and recognises its own join message by it. */
export const tab = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** The websocket address of the room, with `query` as its parameters. */
function roomAddress(query) {
  const address = new URL(encodeURIComponent(roomName), new URL(".", location.href));
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  // encodeURIComponent, not URLSearchParams: a space must be %20 to come back from #QUERY_NAME as a space.
  address.search = Object.entries(query).map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&");
  return address;
}

/**
 * The reason if the server refused the handshake. Browsers hide the response of a failed handshake, so this requests the room's
 * address without an upgrade. Null if the server does not answer or is overloaded, because that may be temporary.
 */
async function refusal() {
  const address = roomAddress({});
  address.protocol = location.protocol;
  const answer = await fetch(address, { cache: "no-store" }).catch(() => null);
  if (answer === null || answer.status === 429 || answer.status >= 500) return null;
  return ROOM_NAME.test(roomName)
    ? { text: `the server refuses room ${roomName}`, isSure: false } // not listed, or too many connections from this address
    : { text: `${roomName}: this is not a name a room can have`, isSure: true };
}

/**
 * Join the room, and reconnect when the connection is lost, unless that cannot succeed. When the page's address names another
 * room, leave this one and join the other.
 *
 * `query()` returns the parameters of each attempt. `onOpen()` runs before the first message of each connection,
 * `onMessage(message)` for each message (a string or an ArrayBuffer), `onClose()` when the connection has ended.
 * Returns `send(message)`: a string or bytes are sent unchanged, anything else as JSON; it returns false without a connection.
 */
export function joinRoom({ query = () => ({}), onOpen = () => {}, onMessage, onClose = () => {} }) {
  const status = document.querySelector(".status");
  let socket = null;
  let attempt = 0; // events of older attempts are ignored
  let tries = 0;
  let refusals = 0;
  let timer = 0;

  function showStatus(state, text, again = false) {
    status.dataset.state = state;
    status.textContent = text;
    if (again) {
      const button = document.createElement("button");
      button.className = "quiet";
      button.textContent = "join again";
      button.addEventListener("click", open);
      status.append(button);
    }
  }

  function open() {
    clearTimeout(timer);
    timer = 0;
    attempt += 1;
    const mine = attempt;
    showStatus("connecting", "connecting …");
    let openedAt = Infinity;
    socket = new WebSocket(roomAddress(query()));
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", () => {
      if (mine !== attempt) return;
      openedAt = performance.now();
      refusals = 0;
      showStatus("open", "connected");
      onOpen();
    });
    socket.addEventListener("message", (event) => {
      if (mine === attempt) onMessage(event.data);
    });
    socket.addEventListener("close", async (event) => {
      if (mine !== attempt) return;
      socket = null;
      onClose();
      if (FINAL.has(event.code) || event.code >= 4000) {
        showStatus("closed", event.reason || "the room has ended", true);
        return;
      }
      const refused = openedAt === Infinity ? await refusal() : null;
      if (mine !== attempt) return;
      refusals = refused ? refusals + 1 : 0;
      if (refused?.isSure || refusals >= LAST_REFUSAL) {
        showStatus("closed", refused.text, !refused.isSure);
        return;
      }
      if (performance.now() - openedAt > STEADY) tries = 0;
      const delay = Math.min(FIRST_DELAY * 2 ** tries, LAST_DELAY) * (0.5 + Math.random() / 2);
      tries += 1;
      const why = event.reason || refused?.text || "no connection";
      showStatus("closed", `${why}; trying again in ${Math.max(1, Math.round(delay / 1000))} s`, true);
      timer = setTimeout(open, delay);
    });
  }

  function send(message) {
    if (socket?.readyState !== WebSocket.OPEN) return false;
    const isRaw = typeof message === "string" || message instanceof ArrayBuffer || ArrayBuffer.isView(message);
    socket.send(isRaw ? message : JSON.stringify(message));
    return true;
  }

  function move() {
    if (roomName === roomOfAddress()) return;
    roomName = roomOfAddress();
    if (socket) {
      socket.close(1000);
      socket = null;
      onClose();
    }
    tries = refusals = 0;
    showRoomName();
    open();
  }

  // Phones close the connections of hidden pages: reconnect at once when the page is visible again.
  const hasten = () => { if (timer && !document.hidden) open(); };
  addEventListener("online", hasten);
  document.addEventListener("visibilitychange", hasten);
  addEventListener("hashchange", move);
  showRoomForm();
  open();
  return send;
}

/**
 * Call the receiver for a message's `t`, or for its `_event` (`join`, `leave`), which only the server can set. Messages without a
 * receiver are ignored, because other clients may send anything.
 */
export function dispatch(message, receivers, events = {}) {
  let fields = null;
  try {
    fields = JSON.parse(message);
  } catch {
    return;
  }
  const [kind, table] = typeof fields?._event === "string" ? [fields._event, events] : [fields?.t, receivers];
  if (typeof kind === "string" && Object.hasOwn(table, kind)) table[kind](fields);
}

/** The form in the bar that moves this page to another room. */
function showRoomForm() {
  const form = document.querySelector(".bar form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = encodeURIComponent(form.elements.room.value.trim());
  });
  showRoomName();
}

function showRoomName() {
  document.querySelector(".bar form").elements.room.value = roomName;
}

const MOODS = ["Brave", "Calm", "Clever", "Curious", "Eager", "Gentle", "Jolly", "Keen", "Merry", "Quiet", "Swift", "Witty"];
const ANIMALS = ["Badger", "Crane", "Fox", "Gecko", "Heron", "Ibex", "Lynx", "Marten", "Otter", "Panda", "Robin", "Wren"];
const pick = (words) => words[Math.floor(Math.random() * words.length)];

/** The user's name: `?name=`, the name chosen before, or a random one. */
export function storedName() {
  const given = new URLSearchParams(location.search).get("name")?.trim();
  const name = (given || localStorage.getItem("name") || `${pick(MOODS)} ${pick(ANIMALS)}`).slice(0, 24);
  storeName(name);
  return name;
}

/** Store `name` for the next visit. */
export function storeName(name) {
  localStorage.setItem("name", name);
}

/** Decode the name in a join message; empty if it is the placeholder (`#QUERY_NAME`), which means that the client sent none. */
export function unquote(value) {
  if (typeof value !== "string" || value.startsWith("#")) return "";
  try {
    return decodeURIComponent(value);
  } catch {
    return value;
  }
}

/** A colour for a text, always the same, readable on light and dark: an hsl() string. */
export function colourOf(text, lightness = 55) {
  let hash = 0;
  for (const letter of String(text)) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  // The golden angle gives similar hashes different colours.
  return `hsl(${Math.round((hash * 137.508) % 360)} 70% ${lightness}%)`;
}
