"""A name in each script, of a dog as a rule."""

NAMES = {
    "Chinese": "红色的狗", "Japanese": "日本語のカタカナ", "Korean": "한국어 자동차", "Arabic": "كلب أسود",
    "Persian": "خودرو‌ها", "Hebrew": "כלב שחור", "Russian": "Собака", "Greek": "Ελληνικά", "Hindi": "कुत्ता",
    "Bengali": "কুকুর", "Tamil": "நாய்", "Telugu": "కుక్క", "Kannada": "ನಾಯಿ", "Malayalam": "നായ", "Gujarati": "કૂતરો",
    "Punjabi": "ਕੁੱਤਾ", "Odia": "କୁକୁର", "Sinhala": "බල්ලා", "Thai": "สุนัขดำ", "Lao": "ຫມາ", "Khmer": "ឆ្កែ",
    "Burmese": "ခွေး", "Georgian": "ძაღლი", "Armenian": "շուն", "Amharic": "ውሻ", "Vietnamese": "chó đốm",
    "French": "chien tacheté", "emoji": "🐶", "symbols": "→ ♥ ½",
}  # fmt: skip

# No font has their letters.
LETTERLESS = ["བོད་ཡིག", "\ue000", "\ud800", "\U0010ffff", "a\u1800b"]
