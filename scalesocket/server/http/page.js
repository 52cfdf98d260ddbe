"use strict"

const PAUSE = 3000 // milliseconds between two updates of the rooms

// Fetches the page again and replaces the elements that change. If the list of apps has changed, the page is reloaded.
const refresh = async () => {
  try {
    if (!document.hidden) {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" })
      if (answer.ok) show(new DOMParser().parseFromString(await answer.text(), "text/html"))
    }
  } catch {
    // The server does not respond: try again later.
  }
  setTimeout(refresh, PAUSE)
}

const show = (next) => {
  const [old, fresh] = [document, next].map((page) => [...page.querySelectorAll("[data-live]")])
  if (old.map((part) => part.dataset.live).join() !== fresh.map((part) => part.dataset.live).join()) {
    location.reload()
    return
  }
  old.forEach((part, at) => {
    if (!part.isEqualNode(fresh[at])) part.replaceWith(fresh[at])
  })
}

if (document.querySelector("[data-live]")) setTimeout(refresh, PAUSE)

// Browsers offer the clipboard only on HTTPS and localhost; elsewhere a click selects the whole line.
for (const line of navigator.clipboard ? document.querySelectorAll(".line") : []) {
  const button = document.createElement("button")
  button.type = "button"
  button.textContent = "Copy"
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(line.dataset.text)
      button.textContent = "Copied"
    } catch {
      button.textContent = "Not allowed"
    }
    setTimeout(() => (button.textContent = "Copy"), 1500)
  })
  line.append(button)
}
