"""Passages of manuals in several languages, each with a query in other words, other inflections or another order."""

GERMAN = [
    ("Das Filtersieb der Waschmaschine muss alle drei Monate gereinigt werden. Stellen Sie vorher die Wasserzufuhr ab und legen Sie ein Tuch unter.", "Sieb einer Waschmaschine reinigen ohne Wasserzuführung"),
    ("Kündigungen des Mietvertrages sind schriftlich bis zum dritten Werktag eines Monats einzureichen, sonst verlängert sich die Frist.", "Wann muss ich die Kündigung vom Mietvertrag einreichen?"),
    ("Die Heizungsanlage wird vor dem Winter entlüftet. Öffnen Sie dazu die Ventile an den Heizkörpern mit einem Vierkantschlüssel.", "Heizkörper entlüften mit Vierkantschlüsseln"),
    ("Rückerstattungen überweisen wir innerhalb von vierzehn Tagen auf das Konto, von dem gezahlt wurde; Gutscheine werden nicht ausgezahlt.", "Zahlung eines Gutscheins und Rückerstattung"),
    ("Bei einem Stromausfall schaltet die Notbeleuchtung der Treppenhäuser selbständig ein und leuchtet mindestens eine Stunde.", "Wie lange leuchten Notbeleuchtungen im Treppenhaus?"),
    ("Pilze sammelt man im Wald nur mit einem Messer; giftige Doppelgänger erkennt man an ihren weißen Lamellen.", "giftiger Pilz mit weisser Lamelle"),
    ("Der Zug nach Salzburg hält an kleineren Bahnhöfen nur auf Verlangen; Fahrgäste drücken rechtzeitig die Taste.", "Haltestelle auf Verlangen in kleinen Bahnhof, welche Tasten"),
    ("Für den Teig werden Hefe, Mehl und lauwarme Milch vermengt. Danach ruht er zugedeckt, bis er doppelt so groß ist.", "wie lange ruhen Teige mit Hefe und lauwarmer Milch"),
    ("Auszubildende unter achtzehn Jahren dürfen keine Nachtschichten leisten; ihre Pausen betragen täglich sechzig Minuten.", "Pause und Nachtschicht für einen Auszubildenden"),
    ("Die Bremsbeläge des Fahrrades sind abgenutzt, wenn die Rillen nicht mehr sichtbar sind. Wechseln Sie dann beide Seiten.", "abgenutzter Bremsbelag am Fahrrad"),
]  # fmt: skip
ENGLISH = [
    ("The pump's filters are cleaned every three months. Close the valve first, since water under pressure damages the seals.", "cleaning the filter of a pump, damaged seal"),
    ("Tenants who cancel their leases early lose the deposits that they paid when they moved in.", "does a tenant cancelling a lease get a deposit back"),
    ("Radiators that gurgle hold trapped air. Bleeding them with a key restores the heating in minutes.", "bleed a gurgling radiator"),
    ("Refunds are issued within fourteen days to the card that was charged; vouchers are never exchanged for cash.", "exchange voucher for cash refund"),
    ("Emergency lights in stairwells switch themselves on during blackouts and burn for an hour.", "how long does an emergency light burn in a blackout"),
    ("Mushrooms with white gills may be deadly. Foragers carry knives and leave what they cannot identify.", "deadly mushroom with a white gill"),
    ("Trains to Cambridge stop at request halts only if passengers signal to the drivers.", "signalling a driver at a request halt"),
    ("The dough rises under a cloth until it has doubled; yeast, flour and lukewarm milk are its ingredients.", "ingredient list for rising dough with yeast"),
    ("Apprentices younger than eighteen work no night shifts and take breaks of sixty minutes.", "night shift for an apprentice, break"),
    ("Brake pads on bicycles are worn once their grooves have vanished; replace both sides together.", "replacing a worn bicycle brake pad"),
]  # fmt: skip
CHINESE = [
    ("水泵的过滤网每三个月清洗一次。清洗前必须关闭阀门,用温水冲洗过滤网并晾干。", "怎样清洗水泵过滤网"),
    ("租客提前解除租赁合同的,押金不予退还。解除合同应当提前三十天书面通知房东。", "提前退租押金能退还吗"),
    ("暖气片有流水声说明里面有空气,用钥匙打开放气阀排出空气即可恢复供暖。", "暖气片怎么放气"),
    ("退款会在十四天之内原路退回付款的银行卡,优惠券不能兑换现金。", "优惠券兑换现金"),
    ("停电时楼梯间的应急照明灯会自动点亮,至少可以持续一个小时。", "应急灯停电后能亮多久"),
    ("带有白色菌褶的蘑菇可能有剧毒,采摘时请携带小刀,不认识的蘑菇不要采。", "有毒的白色蘑菇"),
    ("开往桂林的列车在小站仅按需停靠,乘客需要提前按下车铃通知司机。", "小站按铃停靠列车"),
    ("面团由酵母、面粉和温牛奶揉成,盖上湿布发酵到两倍大小。", "酵母面团发酵"),
    ("未满十八周岁的学徒不得上夜班,每天休息时间为六十分钟。", "学徒可以上夜班吗"),
    ("自行车刹车片的凹槽磨平以后就要更换,左右两侧应同时更换。", "更换自行车刹车片"),
    ("在ＷＩＮＤＯＷＳ 11的设置中打开蓝牙,把耳机靠近电脑,选择“EarPods Pro”进行配对。", "windows 蓝牙耳机配对 earpods"),
    ("路由器背面的複位鍵按住十秒鐘,設備就會恢復出廠設定,之後需要重新輸入寬頻帳號。", "路由器恢復出廠設定"),
]  # fmt: skip
JAPANESE = [
    ("ポンプのフィルターは三か月ごとに掃除します。掃除の前に必ずバルブを閉めてください。", "フィルターを掃除する方法"),
    ("賃貸契約を途中で解約した場合、敷金は返金されません。解約は三十日前までに書面で連絡してください。", "途中解約した時の敷金"),
    ("暖房の配管から音がするときは空気がたまっています。専用の鍵で弁を開けて空気を抜きます。", "暖房の空気を抜く"),
    ("返金は十四日以内にお支払いのカードへ行われます。割引券は現金に交換できません。", "割引券を現金に交換できるか"),
    ("停電すると階段の非常灯が自動で点灯し、少なくとも一時間は明るさを保ちます。", "非常灯は何時間点灯する"),
    ("白いひだのあるきのこは猛毒の場合があります。見分けられないきのこは採らないでください。", "毒のある白いきのこ"),
    ("松本行きの列車は小さな駅では乗客がボタンを押したときだけ停車します。", "小さい駅で停車するボタン"),
    ("パン生地は酵母と小麦粉と温めた牛乳をこねて作り、二倍にふくらむまで寝かせます。", "生地がふくらむまで酵母"),
    ("十八歳未満の見習いは夜勤ができません。休憩は一日六十分です。", "見習いの夜勤と休憩"),
    ("自転車のブレーキパッドは溝が消えたら交換します。ﾌﾞﾚｰｷは左右を同時に替えてください。", "ブレーキの溝がなくなった自転車"),
]  # fmt: skip
KOREAN = [
    ("펌프의 필터는 석 달마다 청소합니다. 청소하기 전에 반드시 밸브를 잠가야 합니다.", "펌프 필터를 청소하는 법"),
    ("임대차 계약을 중도에 해지하면 보증금을 돌려받을 수 없습니다. 해지는 서면으로 알려야 합니다.", "계약 해지할 때 보증금"),
    ("라디에이터에서 소리가 나면 공기가 찬 것입니다. 열쇠로 밸브를 열어 공기를 빼십시오.", "라디에이터 공기 빼기"),
    ("환불은 결제한 카드로 십사 일 이내에 이루어지며 상품권은 현금으로 바꿀 수 없습니다.", "상품권을 현금으로 교환"),
    ("정전이 되면 계단의 비상등이 자동으로 켜져 한 시간 이상 유지됩니다.", "비상등은 정전 때 얼마나 켜지나"),
    ("하얀 주름이 있는 버섯은 독이 있을 수 있으니 모르는 버섯은 따지 마십시오.", "독버섯 하얀 주름"),
    ("강릉행 열차는 작은 역에서 승객이 단추를 누를 때만 정차합니다.", "작은 역에 열차 정차 단추"),
    ("반죽은 효모와 밀가루와 따뜻한 우유로 만들고 두 배로 부풀 때까지 둡니다.", "효모 반죽이 부풀게"),
    ("열여덟 살이 안 된 견습생은 야간 근무를 할 수 없으며 휴식은 육십 분입니다.", "견습생 야간근무"),
    ("자전거의 브레이크 패드는 홈이 없어지면 양쪽을 함께 교체합니다.", "브레이크패드 교체 자전거"),
]  # fmt: skip
THAI = [
    ("ควรล้างไส้กรองของปั๊มน้ำทุกสามเดือน และต้องปิดวาล์วก่อนทำความสะอาดทุกครั้ง", "วิธีทำความสะอาดไส้กรองปั๊มน้ำ"),
    ("ผู้เช่าที่ยกเลิกสัญญาเช่าก่อนกำหนดจะไม่ได้รับเงินประกันคืน ต้องแจ้งเป็นหนังสือล่วงหน้าสามสิบวัน", "ยกเลิกสัญญาเช่าได้เงินประกันคืนไหม"),
    ("หากเครื่องทำความร้อนมีเสียงดังแสดงว่ามีอากาศค้างอยู่ ให้ใช้กุญแจเปิดวาล์วไล่อากาศออก", "ไล่อากาศเครื่องทำความร้อน"),
    ("เราจะคืนเงินเข้าบัตรที่ชำระภายในสิบสี่วัน บัตรกำนัลไม่สามารถแลกเป็นเงินสดได้", "แลกบัตรกำนัลเป็นเงินสด"),
    ("เมื่อไฟดับ ไฟฉุกเฉินที่บันไดจะติดเองและส่องสว่างอย่างน้อยหนึ่งชั่วโมง", "ไฟฉุกเฉินส่องสว่างกี่ชั่วโมง"),
    ("เห็ดที่มีครีบสีขาวอาจมีพิษร้ายแรง ไม่ควรเก็บเห็ดที่ไม่รู้จัก", "เห็ดพิษครีบขาว"),
    ("รถไฟไปเชียงใหม่จะหยุดที่สถานีเล็กเมื่อผู้โดยสารกดกริ่งเท่านั้น", "กดกริ่งให้รถไฟหยุดสถานีเล็ก"),
    ("แป้งขนมปังทำจากยีสต์ แป้งสาลี และนมอุ่น พักไว้จนขึ้นเป็นสองเท่า", "พักแป้งยีสต์นมอุ่น"),
    ("ผู้ฝึกงานอายุต่ำกว่าสิบแปดปีห้ามทำงานกะกลางคืน และมีเวลาพักหกสิบนาที", "ผู้ฝึกงานทำกะกลางคืนได้หรือไม่"),
    ("ผ้าเบรกจักรยานต้องเปลี่ยนเมื่อร่องหายไป และควรเปลี่ยนทั้งสองข้างพร้อมกัน", "เปลี่ยนผ้าเบรกของจักรยาน"),
]  # fmt: skip
RUSSIAN = [
    ("Фильтры насоса промывают каждые три месяца. Сначала перекройте вентиль, иначе вода повредит прокладки.", "промывка фильтра насосов, повреждённая прокладка"),
    ("Жильцам, которые расторгают договоры досрочно, залог не возвращается.", "досрочное расторжение договора и возврат залога"),
    ("Батареи отопления булькают, когда в них скопился воздух; его выпускают специальным ключом.", "выпустить воздух из батареи ключами"),
    ("Деньги возвращают на карту за четырнадцать дней, подарочные сертификаты на наличные не меняют.", "обмен подарочного сертификата на наличные деньги"),
    ("Аварийные светильники на лестницах включаются сами и горят не меньше часа.", "сколько горит аварийный светильник на лестнице"),
    ("Грибы с белыми пластинками бывают смертельно ядовитыми, незнакомых грибов не собирайте.", "ядовитый гриб с белой пластинкой"),
]  # fmt: skip
ARABIC = [
    ("يجب تنظيف مرشحات المضخة كل ثلاثة أشهر، وأغلق الصمام قبل البدء حتى لا تتلف الحشيات.", "كيف أنظف المرشح في المضخة؟"),
    ("المستأجرون الذين يلغون عقود الإيجار مبكراً لا يستردون مبلغ التأمين.", "إلغاء عقد الإيجار واسترداد التأمين"),
    ("أضواء الطوارئ في السلالم تعمل تلقائياً عند انقطاع الكهرباء وتبقى مضيئة ساعة كاملة.", "كم ساعة تبقى أضواء الطوارئ؟"),
    ("الفطر ذو الصفائح البيضاء قد يكون سامّاً جداً، فلا تقطف ما لا تعرفه.", "فطر سام أبيض الصفائح"),
    ("يتوقف القطار في المحطات الصغيرة فقط إذا ضغط الركاب على الجرس.", "الجرس لإيقاف القطار في المحطة الصغيرة"),
    ("يُترك العجين المصنوع من الخميرة والحليب الدافئ حتى يتضاعف حجمه.", "عجين الخميرة والحليب"),
]  # fmt: skip
HINDI = [
    ("पंप का फ़िल्टर हर तीन महीने में साफ़ किया जाता है। सफ़ाई से पहले वाल्व बंद करना ज़रूरी है।", "पंप के फ़िल्टर को साफ़ कैसे करें"),
    ("जो किरायेदार समय से पहले अनुबंध तोड़ते हैं उन्हें जमानत राशि वापस नहीं मिलती।", "किरायेदारों की जमानत राशि"),
    ("बिजली जाने पर सीढ़ियों की आपातकालीन बत्तियाँ अपने आप जलती हैं और एक घंटे तक रोशनी देती हैं।", "आपातकालीन बत्ती कितने घंटे जलती है"),
    ("सफ़ेद गलफड़ों वाले मशरूम ज़हरीले हो सकते हैं, अनजान मशरूम न तोड़ें।", "ज़हरीला मशरूम"),
    ("छोटे स्टेशनों पर रेलगाड़ी तभी रुकती है जब यात्री घंटी बजाते हैं।", "छोटा स्टेशन रेलगाड़ी घंटी"),
    ("ख़मीर, आटे और गुनगुने दूध से बना आटा दोगुना होने तक ढककर रखें।", "ख़मीर वाला आटा दूध"),
]  # fmt: skip
TURKISH = [
    ("Pompanın filtreleri üç ayda bir temizlenir. Önce vanayı kapatın, yoksa contalar zarar görür.", "POMPA FİLTRESİ TEMİZLİĞİ"),
    ("Sözleşmelerini erken fesheden kiracılar depozitolarını geri alamaz.", "KİRACI sözleşme feshi depozito"),
    ("Acil durum lambaları elektrik kesilince kendiliğinden yanar ve ışığı bir saat sürer.", "IŞIK acil lamba kaç saat"),
    ("Beyaz lamelli mantarlar zehirli olabilir; tanımadığınız mantarları toplamayın.", "zehirli mantar"),
    ("Isıtıcıların havası özel bir anahtarla alınır; petek ılıksa içinde hava vardır.", "ISITICI hava alma anahtarı"),
    ("Hamur maya, un ve ılık sütle yoğrulur, iki katına çıkana kadar bekletilir.", "mayalı hamur süt"),
]  # fmt: skip
GREEK = [
    ("Τα φίλτρα της αντλίας καθαρίζονται κάθε τρεις μήνες. Κλείστε πρώτα τη βαλβίδα.", "ΚΑΘΑΡΙΣΜΟΣ φίλτρου αντλίας"),
    ("Οι ενοικιαστές που λύνουν πρόωρα το συμβόλαιο χάνουν την εγγύηση.", "εγγύηση ενοικιαστής ΣΥΜΒΟΛΑΙΟ"),
    ("Τα φώτα ασφαλείας στις σκάλες ανάβουν μόνα τους και μένουν αναμμένα μία ώρα.", "φως ασφαλείας σκάλα"),
    ("Τα μανιτάρια με λευκά ελάσματα μπορεί να είναι δηλητηριώδη.", "δηλητηριώδες μανιτάρι"),
    ("Το τρένο σταματά στους μικρούς σταθμούς μόνο αν οι επιβάτες χτυπήσουν το κουδούνι.", "μικρός σταθμός κουδούνι"),
    ("Το ζυμάρι γίνεται με μαγιά, αλεύρι και χλιαρό γάλα και φουσκώνει σκεπασμένο.", "ζυμάρι μαγιάς με γάλατα"),
]  # fmt: skip
VIETNAMESE = [
    ("Lưới lọc của máy bơm phải được làm sạch ba tháng một lần, trước đó cần khoá van.", "làm sạch lưới lọc máy bơm"),
    ("Người thuê nhà chấm dứt hợp đồng trước hạn sẽ không được hoàn tiền đặt cọc.", "TIỀN ĐẶT CỌC khi chấm dứt hợp đồng"),
    ("Đèn khẩn cấp ở cầu thang tự bật khi mất điện và sáng ít nhất một giờ.", "đèn khẩn cấp sáng bao lâu"),
    ("Nấm có phiến trắng có thể rất độc, đừng hái loại nấm không quen.", "nấm độc phiến trắng"),
    ("Tàu chỉ dừng ở ga nhỏ khi hành khách bấm chuông.", "bấm chuông dừng tàu ga nhỏ"),
    ("Bột bánh mì gồm men, bột mì và sữa ấm, ủ đến khi nở gấp đôi.", "ủ bột men nở"),
]  # fmt: skip
KHMER = [
    ("តម្រងរបស់ម៉ាស៊ីនបូមទឹកត្រូវលាងសម្អាតរៀងរាល់បីខែម្តង។ ត្រូវបិទវ៉ានជាមុនសិន។", "សម្អាតតម្រងម៉ាស៊ីនបូមទឹក"),
    ("អ្នកជួលដែលបញ្ចប់កិច្ចសន្យាមុនកំណត់នឹងមិនទទួលបានប្រាក់កក់វិញទេ។", "ប្រាក់កក់របស់អ្នកជួល"),
    ("ភ្លើងបន្ទាន់នៅជណ្តើរនឹងបើកដោយស្វ័យប្រវត្តិនៅពេលដាច់ចរន្តអគ្គិសនី។", "ភ្លើងបន្ទាន់ដាច់ចរន្ត"),
]  # fmt: skip
LAO = [
    ("ຕ້ອງລ້າງຕົວກອງຂອງປ້ຳນ້ຳທຸກໆສາມເດືອນ ແລະ ປິດວາວກ່ອນ.", "ລ້າງຕົວກອງປ້ຳນ້ຳ"),
    ("ຜູ້ເຊົ່າທີ່ຍົກເລີກສັນຍາກ່ອນກຳນົດຈະບໍ່ໄດ້ຮັບເງິນມັດຈຳຄືນ.", "ຍົກເລີກສັນຍາເງິນມັດຈຳ"),
    ("ໄຟສຸກເສີນຢູ່ຂັ້ນໄດຈະເປີດເອງເມື່ອໄຟຟ້າດັບ.", "ໄຟສຸກເສີນໄຟຟ້າດັບ"),
]  # fmt: skip
BURMESE = [
    ("ရေစုပ်စက်၏ စစ်ကိရိယာကို သုံးလတစ်ကြိမ် သန့်ရှင်းရေးလုပ်ပါ။ အရင်ဆုံး ဗားကို ပိတ်ပါ။", "စစ်ကိရိယာသန့်ရှင်းရေး"),
    ("စာချုပ်ကို စောစီးစွာ ဖျက်သိမ်းသော အိမ်ငှားများသည် စပေါ်ငွေ ပြန်မရပါ။", "အိမ်ငှားစပေါ်ငွေ"),
    ("မီးပျက်သောအခါ လှေကားရှိ အရေးပေါ်မီးများ အလိုအလျောက် လင်းပါမည်။", "အရေးပေါ်မီး မီးပျက်"),
]  # fmt: skip

#: The corpora that the tests search: alone, and two languages in one.
CORPORA = {
    "German and English": GERMAN + ENGLISH, "Chinese and English": CHINESE + ENGLISH, "German": GERMAN,
    "Chinese": CHINESE, "Japanese": JAPANESE, "Korean": KOREAN, "Thai": THAI, "Russian": RUSSIAN, "Arabic": ARABIC,
    "Hindi": HINDI, "Turkish": TURKISH, "Greek": GREEK, "Vietnamese": VIETNAMESE, "Khmer": KHMER, "Lao": LAO,
    "Burmese": BURMESE, "Russian and German": RUSSIAN + GERMAN,
}  # fmt: skip
