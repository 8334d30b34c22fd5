/** Whether the page is live, and the switch that makes it stand still (WCAG 2.2.2). */
import { words } from "./panel";
import { age } from "../format";
import { t } from "../language";
import { live, paused } from "../now";
import { useStore } from "../store";
import { Icon } from "./icon";
import { useNow } from "./parts";

export function LiveSwitch() {
  const state = useStore(live.state);
  const still = useStore(paused);
  const now = useNow();
  let text: string;
  let hint: string | undefined;
  switch (state.is) {
    case "waiting":
      text = t("live.waiting", { age: age(Math.max(Math.ceil((state.until - now) / 1000), 1)) });
      hint = state.problem ? Object.values(words(state.problem)).filter(Boolean).join(": ") : undefined;
      break;
    case "refused":
      text = t("live.refused");
      hint = Object.values(words(state.problem)).filter(Boolean).join(": ");
      break;
    default:
      text = t(`live.${state.is}`);
  }
  return (
    <button
      type="button"
      class={`live live-${state.is}`}
      aria-pressed={still}
      onClick={() => paused.set(!still)}
      title={[hint, still ? t("live.resume") : t("live.pause")].filter(Boolean).join("\n")}
    >
      <i class="live-dot" aria-hidden="true" />
      <span class="live-text">{text}</span>
      <Icon name={still ? "play" : "pause"} size={13} />
      <span class="hidden">{still ? t("live.resume") : t("live.pause")}</span>
    </button>
  );
}
