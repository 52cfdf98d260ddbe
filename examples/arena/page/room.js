// One room of one app: a websocket that comes back by itself, and the few things every page needs.
//
// A page served at /chat/ talks to /chat/ROOM, with ROOM taken from ?room= (lobby without it). The same page served at
// the root talks to /ROOM.

const FIRST_DELAY = 500; // ms before the first new try; doubled for each further one
const LAST_DELAY = 15_000;
const STEADY = 5_000; // ms a connection must last before the delay starts small again

/** The room this page is in. */
export const roomName = new URLSearchParams(location.search).get("room")?.trim() || "lobby";

/** A random word for this tab: a page sends it as a parameter and knows its own Join by it. */
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
 * Join the room, and join again whenever the connection is lost.
 *
 * `query()` gives the parameters of each attempt. `onOpen()` runs before the first message of each connection,
 * `onMessage(message)` for each message (a string, or an ArrayBuffer), `onClose(event)` when the connection has ended.
 * Returns `send(message)`: a string or bytes go out as they are, anything else as JSON; false when there is no connection.
 */
export function joinRoom({ query = () => ({}), onOpen = () => {}, onMessage, onClose = () => {} }) {
  const status = document.querySelector(".status");
  let socket = null;
  let tries = 0;
  let timer = 0;

  function say(state, text, again = false) {
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
    say("connecting", "connecting …");
    let openedAt = Infinity;
    socket = new WebSocket(roomAddress(query()));
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", () => {
      openedAt = performance.now();
      say("open", `in room ${roomName}`);
      onOpen();
    });
    socket.addEventListener("message", (event) => onMessage(event.data));
    socket.addEventListener("close", (event) => {
      socket = null;
      onClose(event);
      if (event.code === 1000 || event.code >= 4000) {
        say("closed", event.reason || "the room has ended", true);
        return;
      }
      if (performance.now() - openedAt > STEADY) tries = 0;
      const delay = Math.min(FIRST_DELAY * 2 ** tries, LAST_DELAY) * (0.5 + Math.random() / 2);
      tries += 1;
      const why = event.reason || "no connection";
      say("closed", `${why}; trying again in ${Math.max(1, Math.round(delay / 1000))} s`, true);
      timer = setTimeout(open, delay);
    });
  }

  function send(message) {
    if (socket?.readyState !== WebSocket.OPEN) return false;
    const isRaw = typeof message === "string" || message instanceof ArrayBuffer || ArrayBuffer.isView(message);
    socket.send(isRaw ? message : JSON.stringify(message));
    return true;
  }

  addEventListener("online", () => socket ?? open());
  open();
  return send;
}

/** The form in the bar that moves this page to another room. */
export function showRoomForm() {
  const form = document.querySelector(".bar form");
  form.elements.room.value = roomName;
}

const MOODS = ["Brave", "Calm", "Clever", "Curious", "Eager", "Gentle", "Jolly", "Keen", "Merry", "Quiet", "Swift", "Witty"];
const ANIMALS = ["Badger", "Crane", "Fox", "Gecko", "Heron", "Ibex", "Lynx", "Marten", "Otter", "Panda", "Robin", "Wren"];
const pick = (words) => words[Math.floor(Math.random() * words.length)];

/** The name this browser goes by: as chosen before (`?name=` wins), or a friendly one. */
export function storedName() {
  const given = new URLSearchParams(location.search).get("name")?.trim();
  const name = (given || localStorage.getItem("name") || `${pick(MOODS)} ${pick(ANIMALS)}`).slice(0, 24);
  storeName(name);
  return name;
}

/** Keep `name` for the next visit. */
export function storeName(name) {
  localStorage.setItem("name", name);
}

/** What a #QUERY_… value of a join message stands for: it is URL-encoded there, and null when it was not given. */
export function unquote(value) {
  try {
    return decodeURIComponent(value ?? "");
  } catch {
    return String(value);
  }
}

/** The same colour for the same text, readable on light and dark: an hsl() string. */
export function colourOf(text, lightness = 55) {
  let hash = 0;
  for (const letter of String(text)) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  // The golden angle spreads near hashes far apart on the wheel.
  return `hsl(${Math.round((hash * 137.508) % 360)} 70% ${lightness}%)`;
}
