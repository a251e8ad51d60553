"use strict";
// What the page does without asking the server: which link was clicked, where the address points, which tokens are
// lit. Each function is put to one component, whose HTML the server makes; listeners sit on the component and outlive it.
window.monosem = (() => {
  const number = (text) => (text === undefined ? undefined : Number(text));
  const plain = (event) => event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);

  // Links to latents are real links: with a modifier they open a page of their own.
  const follow = (element, trigger) =>
    element.addEventListener("click", (event) => {
      const link = event.target.closest("a[data-latent]");
      if (!link || !plain(event)) return;
      event.preventDefault();
      trigger("click", { latent: number(link.dataset.latent) });
    });

  const more = (element, trigger) =>
    element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-more]");
      if (button) trigger("select", { more: number(button.dataset.more) });
    });

  // Of a row of things that arrows go along, one is a stop for the tab key.
  const stop = (all, chosen) => {
    for (const other of all) other.tabIndex = other === chosen ? 0 : -1;
  };

  const mark = (latent) => {
    const all = [...document.querySelectorAll(".ms-hits a")];
    const shown = all.find((link) => link.dataset.latent === latent);
    for (const link of all) link.removeAttribute("aria-current");
    if (!shown) return;
    shown.setAttribute("aria-current", "true");
    stop(all, shown);
  };

  const hits = (element, trigger) => {
    follow(element, trigger);
    more(element, trigger);
    element.addEventListener("keydown", (event) => {
      const link = event.target.closest("a[data-latent]");
      const all = [...element.querySelectorAll(".ms-hits a")];
      const place = all.indexOf(link);
      const next = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: all.length - 1 }[event.key];
      if (place < 0 || !all[next]) return;
      event.preventDefault();
      stop(all, all[next]);
      all[next].focus();
    });
  };

  // The address follows the card; going back in the browser's history asks for the card that was there.
  const card = (element, trigger, watch) => {
    follow(element, trigger);
    more(element, trigger);
    const follows = () => {
      const shown = element.querySelector("[data-latent-shown]");
      if (!shown) return;
      const { run, latentShown: latent } = shown.dataset;
      mark(latent);
      const asked = new URLSearchParams(location.search);
      if (asked.get("run") === run && asked.get("latent") === latent) return;
      const first = !asked.has("latent");
      asked.set("run", run);
      asked.set("latent", latent);
      history[first ? "replaceState" : "pushState"]({}, "", `?${asked}`);
      const place = element.closest(".column") ?? element;
      if (!first && (place.getBoundingClientRect().top < 0 || innerWidth < 768)) place.scrollIntoView({ block: "start" });
    };
    watch("value", follows);
    follows();
    addEventListener("popstate", () => {
      const latent = new URLSearchParams(location.search).get("latent");
      if (latent !== null) trigger("click", { latent: Number(latent) });
    });
    element.addEventListener("click", (event) => {
      const chosen = event.target.closest("[data-way]");
      if (!chosen) return;
      for (const button of element.querySelectorAll("[data-way]"))
        button.setAttribute("aria-pressed", String(button === chosen));
      for (const list of element.querySelectorAll("[data-of-way]")) list.hidden = list.dataset.ofWay !== chosen.dataset.way;
    });
  };

  // Tokens are one stop for the tab key; arrows go from token to token.
  const tokens = (element, trigger) => {
    follow(element, trigger);
    const choose = (token) => {
      for (const other of element.querySelectorAll("[data-token][aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
      token.setAttribute("aria-pressed", "true");
      trigger("select", { place: token.dataset.token });
    };
    element.addEventListener("click", (event) => {
      const token = event.target.closest("[data-token]");
      if (token) choose(token);
      const shade = event.target.closest("[data-shade]");
      if (shade) trigger("submit", { shade: number(shade.dataset.shade) });
    });
    element.addEventListener("keydown", (event) => {
      const token = event.target.closest("[data-token]");
      if (!token) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(token);
        return;
      }
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const all = [...token.parentElement.querySelectorAll("[data-token]")];
      const next = all[all.indexOf(token) + by];
      if (!next) return;
      stop(all, next);
      next.focus();
    });
  };

  // The steered latents are kept in the panel itself: what it shows is what is sent.
  const steering = (element, trigger) => {
    follow(element, trigger);
    const tell = (row) => {
      const [range, says] = [row.querySelector("input"), row.querySelector("output")];
      const ablates = row.querySelector("select").value === "ablate";
      range.disabled = ablates;
      says.textContent = ablates ? "0" : `${Number(range.value)} ×${row.querySelector("select").value === "scale" ? "" : " max"}`;
    };
    element.addEventListener("input", (event) => {
      const row = event.target.closest("[data-edit]");
      if (row) tell(row);
    });
    element.addEventListener("click", (event) => {
      const gone = event.target.closest("[data-remove]");
      if (gone) gone.closest("[data-edit]").remove();
    });
  };
  const edits = () =>
    JSON.stringify([...document.querySelectorAll("[data-edit]")].map((row) => ({
      latent: Number(row.dataset.edit),
      value: Number(row.querySelector("input").value),
      mode: row.querySelector("select").value,
    })));

  const download = (name, text) => {
    if (!text) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/toml" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };

  // Gradio's lists of options open at any key: one that is left by Tab would stay open.
  const leave = (event) => {
    if (event.key === "Tab" && event.target.matches("input[role=combobox]")) event.stopPropagation();
  };
  document.addEventListener("keydown", leave, true);

  return { hits, card, tokens, steering, edits, download };
})();
