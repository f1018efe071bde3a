// The language of the page: the browser's, or the one that was chosen.

import { TEXTS } from "./texts.js";

const KEY = "passl-language";

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch { // the browser keeps nothing for this page
    return null;
  }
}

function preferred() {
  const wanted = [stored(), ...navigator.languages].filter(Boolean);
  return wanted.map((each) => each.slice(0, 2).toLowerCase()).find((each) => each in TEXTS) ?? "en";
}

let language = preferred();

// A text by its key, such as `model` or `failed.503`.
export function text(key, values = {}) {
  const found = key.split(".").reduce((part, name) => part?.[name], TEXTS[language]);
  return found?.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export function percent(value) {
  return value.toLocaleString(language, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
}

export function whole(value) {
  return value.toLocaleString(language, { maximumFractionDigits: 0 });
}

// Put the texts of the language into the page.
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : language;
  document.title = text("title");
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = text(element.dataset.text);
  }
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", button.dataset.language === language);
  }
}

// Let the buttons choose a language; `changed` is called after one of them has.
export function offerLanguages(changed) {
  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => {
      language = button.dataset.language;
      try {
        localStorage.setItem(KEY, language);
      } catch { /* it holds until the page is closed */ }
      translate();
      changed();
    });
  }
}
